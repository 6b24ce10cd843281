"""`surelock experiment`: the paper's experiments on any checkpoint, as data, tables, pictures and what was found."""
