"""What the files of torchdistill mean, part by part."""
