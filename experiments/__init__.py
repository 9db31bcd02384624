"""The verbs of the command ``rulespace``, and what they share."""
