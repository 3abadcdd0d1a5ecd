"""What each family of control networks is trained by: a recipe a file."""
