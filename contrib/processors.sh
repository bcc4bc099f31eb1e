# The processors that packages are made for. Read by the scripts beside it, with `.`; needs their `complain`.

processors=(amd64 arm64 armhf)

# processor [ARCH]: sets the names of a processor, of this machine without ARCH.
#
#     arch      in Debian
#     target    in Rust
#     gnu       in GNU's tools: the prefix of the linker, the folder of the libraries
#     cpu       in qemu
#     foreign   yes, if its programs do not run on this machine by themselves
processor() {
    local host
    command -v "${RUSTC:-rustc}" >/dev/null || complain "${RUSTC:-rustc} is not installed: README.md says what installs Rust"
    host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
    case ${1:-$host} in
    amd64 | x86_64-*) arch=amd64 target=x86_64-unknown-linux-gnu gnu=x86_64-linux-gnu cpu=x86_64 ;;
    arm64 | aarch64-*) arch=arm64 target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu cpu=aarch64 ;;
    # As Debian has it: ARMv7 with a floating-point unit.
    armhf | armv7-*) arch=armhf target=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf cpu=arm ;;
    *)
        [ $# -eq 0 ] || complain "--arch $1 is not known; it is amd64, arm64 or armhf"
        # Any other machine builds for itself.
        arch=$(dpkg --print-architecture 2>/dev/null || echo unknown) target=$host gnu='' cpu=''
        ;;
    esac
    foreign=no
    [ "$target" = "$host" ] || foreign=yes
}

# processor_and_further ARGUMENT…: takes `--arch ARCH` out of the arguments and sets the names of that processor; `further` has
# the others. Those in `refused` would contradict it.
processor_and_further() {
    local wanted=() no
    further=()
    while [ $# -gt 0 ]; do
        for no in "${refused[@]}"; do
            case $1 in "$no" | "$no"=*)
                complain "$1 is not for this script: --arch chooses the processor, HS100D_PROFILE the profile"
                ;;
            esac
        done
        case $1 in
        --arch)
            [ $# -ge 2 ] || complain "--arch needs a value: amd64, arm64 or armhf"
            wanted=("$2")
            shift
            ;;
        --arch=*) wanted=("${1#*=}") ;;
        *) further+=("$1") ;;
        esac
        shift
    done
    processor "${wanted[@]}"
}
