"""A model in front of users: export, engine, HTTP."""
