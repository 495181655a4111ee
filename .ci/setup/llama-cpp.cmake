# Included by llama-cpp-python's build (-DCMAKE_PROJECT_llama_cpp_INCLUDE=…): compile only what is used, and faster.

# libllama-common is for llama.cpp's own programs, none of which are built. llama-cpp-python turns it on in CMake's cache; a
# normal variable takes precedence over the cache.
set(LLAMA_BUILD_COMMON OFF)

# libmtmd has a small source file for each kind of model, and compiling them spends most of its time on the headers that all
# of them include. This joins them, as llama.cpp itself does in libllama. ggml, which does the computation, is unchanged.
function(gguf_embed_join_models)
    if(NOT TARGET mtmd)
        return()
    endif()
    get_target_property(folder mtmd SOURCE_DIR)
    get_target_property(sources mtmd SOURCES)
    list(FILTER sources EXCLUDE REGEX "^models/")
    list(TRANSFORM sources PREPEND "${folder}/")
    set_source_files_properties(${sources} TARGET_DIRECTORY mtmd PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    set_target_properties(mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
endfunction()
cmake_language(DEFER CALL gguf_embed_join_models)
