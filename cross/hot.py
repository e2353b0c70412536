#!/usr/bin/env python3
"""Where an emulated program spends its instructions, and what bounds its hottest loop.

    cross/hot.py [--root DIR] [--plugin count.so] [--top N] [--model neoverse-n1] CPU PROGRAM [ARGUMENT ...]

Runs PROGRAM, built for 64-bit or 32-bit ARM with its symbols, under QEMU with the plugin of cross/count/count.c, and prints the
blocks that most instructions went into: share, length, runs, function. Blocks that follow each other and ran equally often are
one. With --model, llvm-mca analyses the hottest one as a loop on that core: cycles a pass, and the pressure on its pipes.
"""
import argparse, os, re, shutil, subprocess, sys, tempfile


class Machine:
    """What differs between architectures: `loaded_at` is where QEMU puts a position-independent program."""

    def __init__(self, program):
        with open(program, "rb") as file:
            kind = int.from_bytes(file.read(20)[18:], "little")  # e_machine of the ELF header
        self.emulator, self.prefix, self.loaded_at, self.mca = {
            183: ("qemu-aarch64", "aarch64-linux-gnu", 0x5500000000, ["-mtriple=aarch64"]),
            40: ("qemu-arm", "arm-linux-gnueabihf", 0x40000000, ["-mtriple=armv7", "-mattr=+neon"]),
        }[kind]


def count(machine, arguments):
    """Blocks as (address, instructions, runs)."""
    with tempfile.NamedTemporaryFile() as file:
        root = arguments.root or f"/usr/{machine.prefix}"
        libraries = os.path.join(root, "lib")
        command = [machine.emulator, "-cpu", arguments.cpu, "-L", root, "-E", f"LD_LIBRARY_PATH={libraries}",
                   "-plugin", f"{arguments.plugin},blocks={file.name}", arguments.program, *arguments.arguments]
        subprocess.run(command, check=True, stdout=sys.stderr)
        rows = [line.split() for line in open(file.name)]
    return sorted((int(a, 16), int(n), int(r)) for a, n, r, *_ in rows)


def joined(blocks):
    """Neighbours that ran equally often as one, as lists of (address, instructions, runs). QEMU ends a block at a page too."""
    out = []
    for block in blocks:
        last = out[-1] if out else None
        if last and last[0] + 4 * last[1] == block[0] and abs(last[2] - block[2]) * 20 < block[2]:
            last[1] += block[1]
        else:
            out.append(list(block))
    return sorted(out, key=lambda b: -b[1] * b[2])


def disassembly(machine, program):
    """Address to (function, instruction)."""
    tool = next(t for t in (f"{machine.prefix}-objdump", "llvm-objdump-19", "llvm-objdump") if shutil.which(t))
    text = subprocess.run([tool, "-d", "-C", "--no-show-raw-insn", program], check=True, capture_output=True, text=True).stdout
    out, function = {}, "?"
    for line in text.splitlines():
        if m := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = m[1]
        elif m := re.match(r"\s*([0-9a-f]+):\s*(.*)", line):
            out[int(m[1], 16)] = (function, re.sub(r"\s+(//|<|@).*", "", m[2]))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root")
    parser.add_argument("--plugin", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "count", "count.so"))
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--model")
    parser.add_argument("cpu")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    machine = Machine(arguments.program)
    blocks = joined(count(machine, arguments))
    total = sum(n * r for _, n, r in blocks)
    code = disassembly(machine, arguments.program)
    for address, n, runs in blocks[: arguments.top]:
        function = code.get(address - machine.loaded_at, ("(a library)", ""))[0]
        print(f"{100 * n * runs / total:5.1f} %  {n:4} instructions x {runs:9}  {address - machine.loaded_at:#x} {function[:90]}")
    if arguments.model:
        address, n, _ = blocks[0]
        loop = [code[address - machine.loaded_at + 4 * i][1] for i in range(n)]
        loop = [re.sub(r"^(b\.?\w*|cbn?z|tbn?z)\b(.*?)(0x)?[0-9a-f]{3,}$", r"\1\2 1f", line) for line in loop] + ["1:"]
        tool = next(t for t in ("llvm-mca-19", "llvm-mca") if shutil.which(t))
        text = "\n".join(loop)
        print(text if os.environ.get("SHOW") else "")
        subprocess.run([tool, *machine.mca, f"-mcpu={arguments.model}", "-iterations=100", "-instruction-info=0"], input=text, text=True, check=True)


main()
