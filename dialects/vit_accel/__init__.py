"""The accelerator level: instruction set and a dialect that mirrors it one to one."""
