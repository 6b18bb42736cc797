"""The one door to the commands: `python -m nclib COMMAND ...`."""
