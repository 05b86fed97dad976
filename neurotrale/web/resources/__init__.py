"""HTTP only: what a request asks for, and how an answer is sent. Stores do the rest."""
