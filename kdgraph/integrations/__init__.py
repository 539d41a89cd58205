"""What trainers of other libraries need to step a ``DistillModule``; each file imports its own."""
