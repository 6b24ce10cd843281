"""The command line `surelock`: flags to parameters, and pictures of what the library does with them."""
