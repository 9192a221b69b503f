#!/bin/sh
# Build llama.cpp three times, as the peer of our benchmarks: with all that this processor has, without AMX, and with AVX2 only.
# Usage: scripts/peers/llama_cpp.sh FOLDER      a folder outside of this tree; needs cmake, g++, a package index, and 20 minutes
#
# FOLDER/llama-native, FOLDER/llama-avx512 and FOLDER/llama-avx2 each get bin/python, a Python that imports this llama_cpp
# (for --peer-python), and bin/llama-completion (for --peer-binary). Interrupted, it goes on where it was.
# PYTHON chooses the interpreter, JOBS how many compilers run at once.
set -eu
[ $# -eq 1 ] || { sed -n '3s/^# //p' "$0"; exit 2; }
version=0.3.36 # of llama-cpp-python, whose source package brings the llama.cpp that it was made for
mkdir -p "$1"
folder=$(cd "$1" && pwd)
source=$folder/source/llama_cpp_python-$version
python=$folder/python/bin/python
jobs=${JOBS:-$(nproc)}

if [ ! -x "$python" ]; then
    "${PYTHON:-python3}" -m venv "$folder/python"
fi
"$python" -c 'import numpy, jinja2, diskcache, typing_extensions' 2>/dev/null ||
    "$python" -m pip install --quiet numpy jinja2 diskcache typing-extensions
if [ ! -d "$source" ]; then
    mkdir -p "$folder/source"
    (cd "$folder/source" && "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version")
    tar -xzf "$folder/source/llama_cpp_python-$version.tar.gz" -C "$folder/source"
fi

build() { # NAME "TARGETS" FLAGS...: compile the targets in FOLDER/build-NAME
    tree=$folder/build-$1 targets=$2
    shift 2
    [ -f "$tree/CMakeCache.txt" ] ||
        cmake -S "$source/vendor/llama.cpp" -B "$tree" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
            -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN;\$ORIGIN/../llama_cpp/lib" \
            -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
            -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF "$@" >"$tree.log"
    # shellcheck disable=SC2086  # several targets
    cmake --build "$tree" -j "$jobs" --target $targets
}

# The processor's part alone differs, and everything else is built once. g++ 12 drops the stores to AMX's tile configuration as dead ones
# and the program then ends in SIGILL; so that build, and only that one, does without the two passes.
none="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON"
# shellcheck disable=SC2086
build avx2 ggml-cpu $none
# shellcheck disable=SC2086
build avx512 ggml-cpu $none -DGGML_AVX_VNNI=ON -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON
build native "llama llama-completion" -DGGML_NATIVE=ON "-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse"

for variant in native avx512 avx2; do
    here=$folder/llama-$variant
    rm -rf "$here"
    mkdir -p "$here/bin"
    cp -R "$source/llama_cpp" "$here/llama_cpp"
    mkdir -p "$here/llama_cpp/lib"
    cp -P "$folder"/build-native/bin/lib*.so* "$here/llama_cpp/lib/"
    cp -P "$folder/build-$variant"/bin/libggml-cpu.so* "$here/llama_cpp/lib/"
    cp "$folder/build-native/bin/llama-completion" "$here/bin/"
    printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s" "$@"\n' "$here" "$python" >"$here/bin/python"
    chmod +x "$here/bin/python"
    echo "$here: $("$here/bin/python" -c 'import llama_cpp; print(llama_cpp.llama_print_system_info().decode())')"
done
