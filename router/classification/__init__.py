"""Which capabilities does a request need? Read from its structure only, never from its words.

A module for each protocol. Fields of an unexpected type need nothing: what they mean is for the
provider to say.
"""
