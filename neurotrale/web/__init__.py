"""Everything that speaks HTTP through Falcon: routes, resources, access, pages, OpenAPI."""
