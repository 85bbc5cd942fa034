from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from fake_records import fake_deployment, fake_record

from penstock.errors import UserError
from penstock.files.writing import atomic_write, atomic_write_bytes, unwritable
from penstock.recording.records import Rejection
from penstock.rendering.request_csv import CSV_COLUMNS, write_request_csv

HEADER = "instance id,request id,model,input,output,arrival,end_time,latency,queuing_delay,TTFT,TPOT,ITL"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_stand_in_file_order_with_the_defined_columns(tmp_path: Path):
    record = fake_record([[50, 60, 75, 99], [40], [30, 45]], [10, 20, 25])
    path = tmp_path / "new" / "out.csv"
    assert write_request_csv(path, record) == 3
    lines = path.read_text().splitlines()
    assert lines[0] == HEADER == ",".join(CSV_COLUMNS)
    assert lines[1] == '0,0,meta-llama/Llama-3.1-8B,100,4,10,99,89,1,40,16,"[10, 15, 24]"'
    assert lines[2] == '0,1,meta-llama/Llama-3.1-8B,101,1,20,40,20,1,20,0,"[]"'
    assert lines[3] == '0,2,meta-llama/Llama-3.1-8B,102,2,25,45,20,1,5,15,"[15]"'
    assert len(lines) == 4


def test_without_itl_the_column_is_empty_and_times_need_not_be_kept(tmp_path: Path):
    record = fake_record([[50, 60], [40, 47]], [10, 20], keep_token_times=False)
    write_request_csv(tmp_path / "out.csv", record, itl=False)
    rows = read(tmp_path / "out.csv")
    assert [row["ITL"] for row in rows] == ["", ""]
    assert [row["TPOT"] for row in rows] == ["10", "7"]
    with pytest.raises(LookupError, match="token times were not kept"):
        write_request_csv(tmp_path / "none.csv", record)
    assert not (tmp_path / "none.csv").exists()


def test_rejected_requests_have_no_row_and_instances_name_their_model(tmp_path: Path):
    deployments = (fake_deployment(0), fake_deployment(1))
    refused = Rejection(2, 0, 30, 10**6, 5, "longer than max_model_len")
    record = fake_record(
        [[50, 60], [40, 47]], [10, 20], instances=[1, 0], deployments=deployments, rejections=(refused,)
    )
    write_request_csv(tmp_path / "out.csv", record)
    rows = read(tmp_path / "out.csv")
    assert [(row["request id"], row["instance id"]) for row in rows] == [("0", "1"), ("1", "0")]


def test_no_request_finished_leaves_a_header(tmp_path: Path):
    write_request_csv(tmp_path / "out.csv", fake_record([], []))
    assert (tmp_path / "out.csv").read_text() == HEADER + "\n"


def test_writing_the_csv_does_not_import_polars():
    code = "import sys, penstock.rendering.request_csv, penstock.rendering.heartbeat, penstock.rendering.summary;"
    code += "import penstock.rendering.result; sys.exit('polars' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_compressed_files_are_the_same_bytes_each_time(tmp_path: Path):
    for name in ("a.gz", "b.gz"):
        with atomic_write(tmp_path / name) as file:
            file.write("Grüße\n")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()).decode() == "Grüße\n"
    with atomic_write_bytes(tmp_path / "c.bin") as raw:
        raw.write(b"\x00\x01")
    assert (tmp_path / "c.bin").read_bytes() == b"\x00\x01"


def test_what_cannot_be_written_is_the_users_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path, "directory"), (tmp_path / "file" / "below.csv", "not a directory")):
        with pytest.raises(UserError, match=r"cannot be written"), atomic_write(path):
            pass
        assert reason in (unwritable(path) or "")
    assert unwritable(tmp_path / "new" / "deep" / "file.csv") is None
    assert not (tmp_path / "new").exists()


def test_a_link_keeps_pointing_and_a_device_is_not_replaced(tmp_path: Path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_write(tmp_path / "link.txt") as file:
        file.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    with atomic_write("/dev/null") as file:
        file.write("gone")
    assert Path("/dev/null").is_char_device()
