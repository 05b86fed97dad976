"""The OpenAPI document of the service, built from the docstrings of the resources."""
