"""Files in and out: one way to read what a user gives, one way to write what a user gets."""
