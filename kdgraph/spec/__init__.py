"""YAML text to a frozen, typed ``Spec`` whose values know their position. Never imports torch."""
