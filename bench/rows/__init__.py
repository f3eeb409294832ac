"""One module per kind of row. A row returns its values, or raises `WrongRules`, `Unfinished` or what failed."""
