"""What was computed before: an exact cache of outputs by token ids, in memory and on the disk."""
