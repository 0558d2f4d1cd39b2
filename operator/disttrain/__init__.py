"""disttrain for users: API models, SDK and CLI."""
