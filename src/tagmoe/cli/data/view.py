"""`tagmoe data view`: one record as a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from tagmoe.cli.options import AsJson, Force, Out
from tagmoe.cli.output import check_output_file, print_result, write_image


def view(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Store to read.")],
    name: Annotated[str, typer.Option("--id", help="Id of the record, or its beginning.")],
    out: Out,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Draw one record: its pictures with their roles, the target, instruction, tags, lineage.

    Example: tagmoe data view my/store --id 3f2a --out record.png
    """
    check_output_file(out, force=force)
    from tagmoe.data.store.fields import to_fields
    from tagmoe.data.store.picture_sheet import picture_sheet
    from tagmoe.data.store.store import Store

    record = Store.open(store).record(name)
    write_image(picture_sheet(record), out, {})
    data = {
        "output": str(out),
        **to_fields(record),
        "split": record.split,
        "pictures": [
            {"role": role, "width": picture.width, "height": picture.height, "bytes": len(picture.data)}
            for role, picture in (*((item.role, item) for item in record.images), ("target", record.target))
        ],
    }
    print_result(data, str(out), as_json=as_json, about=(f"{record.id}: {record.instruction}",))
