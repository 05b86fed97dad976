"""From a WSGI application to processes that answer on a socket."""
