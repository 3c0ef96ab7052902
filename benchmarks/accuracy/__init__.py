"""How accurate models and recipes are."""
