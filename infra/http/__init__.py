"""The HTTP edge: keys, bodies, problems, commands in, read models out."""
