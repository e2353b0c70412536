# Sourced. The board, an emulated machine: its power, its plugs and a shell on it. `work` is the folder of its disk.

# Starts it and returns at once. Whatever qemu wrote to the disk before a cut of its power stays; what the board's kernel had
# not yet written is lost.
power_on() {
    boots=$((boots + 1))
    qemu-system-aarch64 -machine virt -cpu "${CPU:-cortex-a72}" -accel tcg,thread=multi -smp 2 -m 1G -display none -no-reboot \
        -kernel "$work/vmlinuz" -initrd "$work/initrd.img" -append "root=/dev/vda rw console=ttyAMA0 panic=-1 systemd.firstboot=no" \
        -drive "file=$work/disk.img,format=raw,if=none,id=disk" -device virtio-blk-pci,drive=disk -device virtio-rng-pci \
        -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$shell_port-:22" -device virtio-net-pci,netdev=net,romfile= \
        -device qemu-xhci -chardev "socket,id=line,path=$work/line,server=on,wait=off" \
        -qmp "unix:$work/monitor,server=on,wait=off" -serial "file:$work/console.$boots.log" 2> "$work/qemu.log" &
    board=$!
}

power_cut() { kill -KILL "$board"; wait "$board" 2> /dev/null || true; board=; }
powered() { [[ -n ${board:-} ]] && kill -0 "$board" 2> /dev/null; }

on_board() {
    ssh -q -i "$work/key" -p "$shell_port" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=60 \
        root@127.0.0.1 "$@"
}

monitor() { tests/boot/qmp "$work/monitor" "$@" > /dev/null; }
plug_line() { monitor device_add driver=usb-serial id=sensor chardev=line; }
unplug_line() { monitor device_del id=sensor; }
plug_accelerometer() { on_board 'modprobe uhid && systemd-run --quiet --unit=accelerometer accelerometer /usr/local/share/recording.csv'; }
unplug_accelerometer() { on_board systemctl stop accelerometer; }
