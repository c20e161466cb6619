"""The HTTP face: a FastAPI application over ``tuner.service``, and the dashboard."""
