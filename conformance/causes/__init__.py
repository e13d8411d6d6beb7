"""What differs, as few causes that a person can read; and, exactly, as conditions.

`cells` holds what is explained: cells with typed attributes. `boxes` finds conditions that hold in
every differing cell and in no other. `causes` puts conditions that are one change of behaviour into
one cause. `words` makes the sentences, last.
"""
