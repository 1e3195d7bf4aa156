"""What people see of a program that runs: texts, bars, errors in one line."""
