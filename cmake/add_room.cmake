# add_room(NAME store SRCS a.cc b.cc TESTS a_test.cc DEPS world async LIBS PkgConfig::X)
#
# One room: a static library shoal_<name>, one test program per file of TESTS, and the link test.
# DEPS are the lower rooms it may use; LIBS are libraries from outside. The link test links the
# whole room with only its declared DEPS into an empty main, so an upward call fails the build.
# tools/check_style.py reads the same declarations from the #include lines.
set(SHOAL_EMPTY_MAIN ${CMAKE_BINARY_DIR}/empty_main.cc)
file(WRITE ${SHOAL_EMPTY_MAIN}.tmp "int main() { return 0; }\n")
file(COPY_FILE ${SHOAL_EMPTY_MAIN}.tmp ${SHOAL_EMPTY_MAIN} ONLY_IF_DIFFERENT)

function(add_room)
  cmake_parse_arguments(ROOM "" "NAME" "SRCS;TESTS;DEPS;LIBS;TEST_DEPS;TEST_LIBS" ${ARGN})
  set(lib shoal_${ROOM_NAME})
  set(deps ${ROOM_DEPS})
  list(TRANSFORM deps PREPEND shoal_)
  set(test_deps ${ROOM_TEST_DEPS})
  list(TRANSFORM test_deps PREPEND shoal_)

  if(ROOM_SRCS)
    add_library(${lib} STATIC ${ROOM_SRCS})
    target_link_libraries(${lib} PUBLIC ${deps} ${ROOM_LIBS})
    if(SHOAL_CANARY)
      target_compile_definitions(${lib} PRIVATE SHOAL_CANARY=1)
    endif()
    add_executable(link_${ROOM_NAME} ${SHOAL_EMPTY_MAIN})
    target_link_libraries(link_${ROOM_NAME} PRIVATE
      "$<LINK_LIBRARY:WHOLE_ARCHIVE,${lib}>" ${deps} ${ROOM_LIBS})
    add_test(NAME link.${ROOM_NAME} COMMAND link_${ROOM_NAME})
  else()
    add_library(${lib} INTERFACE)
    target_link_libraries(${lib} INTERFACE ${deps} ${ROOM_LIBS})
  endif()

  foreach(file ${ROOM_TESTS})
    get_filename_component(test ${file} NAME_WE)
    add_executable(${ROOM_NAME}_${test} ${file})
    target_link_libraries(${ROOM_NAME}_${test} PRIVATE ${lib} ${test_deps} ${ROOM_TEST_LIBS}
      GTest::gtest_main)
    add_test(NAME ${ROOM_NAME}.${test} COMMAND ${ROOM_NAME}_${test})
    set_tests_properties(${ROOM_NAME}.${test} PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77)
  endforeach()
endfunction()

# add_fuzzer(room file): a libFuzzer target under the fuzz preset; otherwise a program that replays
# the corpus beside it (<file>_corpus/) as an ordinary test.
function(add_fuzzer room file)
  get_filename_component(name ${file} NAME_WE)
  set(target ${room}_${name})
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/${name}_corpus)
  if(SHOAL_FUZZ)
    add_executable(${target} ${file})
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    target_link_libraries(${target} PRIVATE shoal_${room} ${ARGN})
  else()
    add_executable(${target} ${file} ${CMAKE_SOURCE_DIR}/cmake/replay_corpus.cc)
    target_link_libraries(${target} PRIVATE shoal_${room} ${ARGN})
    add_test(NAME ${room}.${name} COMMAND ${target} ${corpus})
  endif()
endfunction()
