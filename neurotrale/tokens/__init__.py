"""Tokens: who may look and who may change; the file they are in; keeping them out of logs."""
