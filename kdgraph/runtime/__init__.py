"""The compiled graph as a module that any trainer can step."""
