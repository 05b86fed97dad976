"""Tokens: the token file, read or write access for each holder, and hiding tokens in logs."""

USER = "REMOTE_USER"
"""Key of the WSGI environment for the name of the holder of a request's token.

Set by the token middleware; read by the journal and the access log. A client cannot set it, because
the keys of request headers begin with ``HTTP_``.
"""

MAY_WRITE = "neurotrale.may_write"
"""Key of the WSGI environment for whether the token allows changes; absent without tokens."""
