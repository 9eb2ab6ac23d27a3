"""The zip container inside a file of `torch.save` and of ours: a record is one entry of it.

Everybody's:
    structures: the bytes of headers, descriptors and the directory, as a writer lays them out; `Record`.
    directory: parses them, whoever wrote them. The one parser of a directory, and of a local header.
    container: what is known of one file once its structure is read.

Reading, from the bottom up:
    inflation: the data of deflated records, in bounded pieces.
    records: reads the data of records in parallel. `holds` is the one place that compares a CRC, `check_crcs`
        raises the one error for those that differ, with the names of the tensors.
    canonical: what no CRC covers, laid out anew as its writer would, and compared.
    reader: `read_container` puts these together: is a file sound, repacked, damaged, or something else?
    recovery: looks for the records of a damaged file, and for what ties them together; for `salvage`.

Writing:
    planning: where a container will have its bytes.
    writer: `ContainerWriter.add` writes a record, `write_state` a whole file.
    single: the file of one tensor, as shards hold many.
    state_dict: a state dict alone, without torch.
"""
