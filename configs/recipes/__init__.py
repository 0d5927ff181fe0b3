"""Published recipes of others, said with the keys of this library: values only, as all of configs/."""
