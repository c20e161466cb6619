"""The queue: whose turn it is, who holds what under which lease, and what became of the silent."""
