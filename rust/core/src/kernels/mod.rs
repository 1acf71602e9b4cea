//! Arrays in, arrays out, one noun per file. No I/O, no paths, no configuration.
