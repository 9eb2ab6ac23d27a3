"""The `.metadata` that marlin-ckpt writes: torch's own pickle, whose many alike parts are read as arrays.

A run of a thousand ranks has millions of pieces of tensors. To unpickle what says where they are takes a
minute and gigabytes; to read its bytes as columns of numbers takes a second. A pickle of another form is
read as any other is.

forms       records that are all alike but for a few numbers, to and from arrays
vocabulary  what such a pickle is made of
reading     read_columns, which takes it apart
columns     Columns: what it says of each tensor and value
"""
