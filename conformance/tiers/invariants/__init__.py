"""Laws that every selector keeps, whatever it selects, and the search for where one does not."""
