"""Ring 4: the command line. A face over what the library offers; it decides nothing that the library could not be asked."""
