"""The practice set: ten drawn animals."""
