"""One image to a view: the recipe, and what renders it."""
