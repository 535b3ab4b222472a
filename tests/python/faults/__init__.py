"""Faults from outside: real processes, disks and signals. Each module does one family of faults and keeps its tally.

`soak.py` runs them by the thousand and prints the table; `test_faults_*.py` run the same functions a few times.
"""
