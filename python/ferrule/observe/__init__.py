"""What ferrule says about itself. Forbidden here: changing anything."""
