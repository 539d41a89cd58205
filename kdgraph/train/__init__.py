"""The default run: trains the teacher, the student, and the student alone to compare with."""
