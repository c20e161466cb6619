"""The REST routes under ``/api/v1``: each parses, calls one use case and returns a schema."""
