"""The store on the disk: records, fields, columns, one writer at a time, and who works on its fragments."""
