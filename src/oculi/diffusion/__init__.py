"""Systems that make pictures by removing noise step by step."""
