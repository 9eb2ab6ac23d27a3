"""Objects that are uploaded in parts.

- `parts`: an object that is uploaded in parts, and committed by one request.
- `sending`: the parts on their way.
- `copying`: an object of which the store copies what is in the last one.
- `cutting`: where the parts of that begin and end.
"""
