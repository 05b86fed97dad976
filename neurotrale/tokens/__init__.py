"""Tokens: who may look and who may change; the file they are in; keeping them out of logs."""

USER = "REMOTE_USER"
"""Key of the WSGI environment for the name that belongs to a request's token.

Set behind the gate; journal and access log read it. A client cannot set it, as the keys of what
it sends begin with ``HTTP_``.
"""

MAY_WRITE = "neurotrale.may_write"
"""Key of the WSGI environment for whether that token allows changes; absent without tokens."""
