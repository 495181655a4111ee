# Read by llama-cpp-python's build (-DCMAKE_PROJECT_llama_cpp_INCLUDE=…): compile what is used, and that faster.

# libllama-common serves llama.cpp's own programs, of which none is built. llama-cpp-python turns it on in CMake's cache;
# a plain variable goes before that.
set(LLAMA_BUILD_COMMON OFF)

# libmtmd has a small file for each kind of model, and most of their time goes to the headers that all of them include.
# llama.cpp itself joins those of libllama in the same way. What computes, ggml, stays as it is.
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
