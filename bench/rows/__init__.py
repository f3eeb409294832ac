"""One module per kind of row. A row gives its values, or raises: `WrongRules`, `Unfinished`, or whatever went wrong."""
