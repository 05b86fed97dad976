"""The processes, sockets and threads that serve the WSGI application."""
