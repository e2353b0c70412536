# Sourced. `std TARGET` finds the standard library for a target: leaves what cargo needs for it in the array `std_options` and
# in the environment. An installed one of the target (`rustup target add TARGET`), else built from source: rustup's component
# rust-src, or Debian's rust-web-src with rustc-web. `JOULED_STD=source` builds it from source in any case.

std() {
    local target=$1 sysroot
    std_options=()
    sysroot=$(rustc --print sysroot)
    if [[ ${JOULED_STD:-} != source && -d $sysroot/lib/rustlib/$target/lib ]]; then
        echo "standard library of $target: installed for $(rustc --version)" >&2
        return
    fi
    if [[ -f $sysroot/lib/rustlib/src/rust/library/Cargo.lock ]]; then
        echo "standard library of $target: built from the source in $sysroot" >&2
    elif [[ -x /usr/bin/rustc && -f $(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock ]]; then
        echo "standard library of $target: built from Debian's source by $(/usr/bin/rustc --version)" >&2
        export RUSTC=/usr/bin/rustc
    else
        echo "no standard library of $target and no source of one: 'rustup target add $target', 'rustup component add rust-src' or
'apt-get install rustc-web rust-web-src'" >&2
        return 1
    fi
    # The source belongs to exactly this compiler, so the unstable option is safe with a stable one.
    export RUSTC_BOOTSTRAP=1
    std_options=(-Zbuild-std=std,panic_unwind,test)
}
