#include "apps/completion.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/assert.h"

namespace shoal {
namespace {

struct Flag {
  std::string name;  // without dashes
  std::string help;
  bool takes_value = false;
  std::string type;
};
struct Command {
  std::string name;
  std::string help;
  std::vector<Flag> flags;
  std::vector<std::string> words;  // of the next level: subcommands or the values of a positional
};

std::vector<Command> commands_of(const CLI::App& app) {
  std::vector<Command> out;
  for (const CLI::App* one : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (one->get_group().empty()) continue;  // hidden
    Command command{one->get_name(), one->get_description(), {}, {}};
    for (const CLI::Option* option : one->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        command.flags.push_back({name, option->get_description(),
                                 option->get_items_expected_max() > 0, option->get_type_name()});
      }
    }
    for (const CLI::App* nested : one->get_subcommands([](const CLI::App*) { return true; })) {
      command.words.push_back(nested->get_name());
    }
    if (one->get_name() == "completion") command.words = {"bash", "zsh", "fish"};
    out.push_back(std::move(command));
  }
  return out;
}

std::string join(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

std::string flag_words(const Command& command) {
  std::vector<std::string> words;
  for (const Flag& flag : command.flags) words.push_back("--" + flag.name);
  return join(words);
}

// Help texts inside single quotes.
std::string quoted(std::string text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out.push_back(c == '\n' ? ' ' : c);
    }
  }
  return out + "'";
}

std::string bash_script(const std::vector<Command>& commands) {
  std::vector<std::string> names;
  std::string cases;
  for (const Command& command : commands) {
    names.push_back(command.name);
    cases += fmt::format("    {}) flags=\"{}\"; words=\"{}\" ;;\n", command.name,
                         flag_words(command), join(command.words));
  }
  return fmt::format(R"(# bash completion for shoal
_shoal() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" flags="--help" words=""
  COMPREPLY=()
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=($(compgen -W "{} --help" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{}  esac
  if [[ "$word" == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  elif [[ -n "$words" ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _shoal shoal
)",
                     join(names), cases);
}

std::string zsh_script(const std::vector<Command>& commands) {
  std::string names;
  std::string cases;
  for (const Command& command : commands) {
    names += fmt::format("    {}\n", quoted(command.name + ":" + command.help));
    cases += fmt::format("    {})\n      _arguments", command.name);
    for (const Flag& flag : command.flags) {
      std::string help = flag.help;
      std::replace(help.begin(), help.end(), '[', '(');
      std::replace(help.begin(), help.end(), ']', ')');
      std::replace(help.begin(), help.end(), ':', ';');
      cases += " \\\n        " +
               quoted(fmt::format("--{}{}[{}]{}", flag.name, flag.takes_value ? "=" : "", help,
                                  flag.takes_value ? ":value:_files" : ""));
    }
    cases += " \\\n        ";
    cases +=
        command.words.empty() ? "'*:file:_files'" : quoted("*:word:(" + join(command.words) + ")");
    cases += "\n      ;;\n";
  }
  return fmt::format(R"(#compdef shoal
# zsh completion for shoal
_shoal() {{
  local -a commands
  commands=(
{}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command="${{words[2]}}"
  shift words
  (( CURRENT-- ))
  case "$command" in
{}  esac
}}
_shoal "$@"
)",
                     names, cases);
}

std::string fish_script(const std::vector<Command>& commands) {
  std::vector<std::string> names;
  for (const Command& command : commands) names.push_back(command.name);
  std::string all = join(names);
  std::string out = "# fish completion for shoal\n";
  for (const Command& command : commands) {
    out += fmt::format("complete -c shoal -n 'not __fish_seen_subcommand_from {}' -f -a {} -d {}\n",
                       all, command.name, quoted(command.help));
    for (const Flag& flag : command.flags) {
      out += fmt::format("complete -c shoal -n '__fish_seen_subcommand_from {}' -l {}{} -d {}\n",
                         command.name, flag.name, flag.takes_value ? " -r" : "", quoted(flag.help));
    }
    if (!command.words.empty()) {
      out += fmt::format("complete -c shoal -n '__fish_seen_subcommand_from {}' -f -a {}\n",
                         command.name, quoted(join(command.words)));
    }
  }
  return out;
}

}  // namespace

std::string completion_script(const CLI::App& app, std::string_view shell) {
  auto commands = commands_of(app);
  if (shell == "bash") return bash_script(commands);
  if (shell == "zsh") return zsh_script(commands);
  SHOAL_ASSERT(shell == "fish", "the parser lets no other shell in");
  return fish_script(commands);
}

}  // namespace shoal
